"""A study in Python: run it, look at it, prune its best net, write that as C."""

import golf_opt as golf

# Run 6 trials, or go on to as many. In a notebook, `study` shows itself.
study = golf.study(
    arch="c4-5-4",
    trials=6,
    epochs=4,
    data="digits",
    space={"batch_size": {"low": 8, "high": 16}},
    storage="memory",
)
best = study.best
assert best is not None
print(f"trial {best.number}: {best.value}, {dict(best.params)}")
study.plot("learning-curves").save("curves.svg")

# Is it luck? The same recipe on seeds that no trial had.
confirmed = golf.confirm(study, top=1, seeds=3)
print(f"mean of 3 seeds: {confirmed.best.ours.mean}")

# As small as it gets with 60 % of the digits.
net = study.net()
pruned = golf.prune(net, target=0.6)
print(f"{net.num_params} parameters, {pruned.num_nonzero} of them not zero after pruning")
assert pruned.accuracy() >= 0.6

# For a microcontroller, and for another day.
golf.deploy(pruned, "c", output="digits.h")
pruned.save("digits.safetensors")
images = net.dataset().test.images[:5]
assert (golf.load_net("digits.safetensors").predict(images) == pruned.predict(images)).all()

# One recipe, several seeds, no study.
trained = golf.train("c4-5-4", {"batch_size": 8, "lr": 3e-3}, seeds=4, epochs=4, data="digits")
print(f"{trained.mean:.4f} with a standard deviation of {trained.sd:.4f}")
