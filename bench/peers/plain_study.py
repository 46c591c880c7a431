"""The study that a user would write by hand: Optuna, PyTorch, torchvision. No golf_opt in here.

    python bench/peers/plain_study.py ROOT STORAGE CANDIDATES.json EPOCHS [MAX_STEPS]

Runs the candidates of the file, [{batch_size, lr, step_size, gamma}, ...], one trial each, on the
net c4-5-4. Start it in as many processes as there are cores, with the same storage. MAX_STEPS ends
every epoch early, to measure without waiting; the time an epoch would have taken is printed then.
"""

import json
import sys
import time

import optuna
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms


def build_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(36, 10),
    )  # fmt: skip


def load(root: str) -> tuple[datasets.MNIST, datasets.MNIST]:
    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    )
    return (
        datasets.MNIST(root, train=True, transform=transform),
        datasets.MNIST(root, train=False, transform=transform),
    )


def accuracy(model: nn.Module, loader: DataLoader) -> float:
    model.eval()
    correct = 0
    with torch.no_grad():
        for x, y in loader:
            correct += int((model(x).argmax(1) == y).sum())
    return correct / len(loader.dataset)  # type: ignore[arg-type]


def main() -> None:
    root, storage, candidates_file, epochs = sys.argv[1:5]
    max_steps = int(sys.argv[5]) if len(sys.argv) > 5 else None
    candidates = json.load(open(candidates_file))  # noqa: PTH123, SIM115
    torch.set_num_threads(1)
    train, test = load(root)
    test_loader = DataLoader(test, batch_size=1000)

    def objective(trial: optuna.Trial) -> float:
        batch_size = trial.suggest_int("batch_size", 4, 32)
        lr = trial.suggest_float("lr", 1e-5, 1e-2, log=True)
        step_size = trial.suggest_int("step_size", 1, 6)
        gamma = trial.suggest_float("gamma", 0.1, 0.99)
        loader = DataLoader(train, batch_size=batch_size, shuffle=True)
        model = build_model()
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size, gamma)
        criterion = nn.CrossEntropyLoss()
        score = 0.0
        for epoch in range(int(epochs)):
            model.train()
            started = time.perf_counter()
            for step, (x, y) in enumerate(loader):
                if step == max_steps:
                    break
                optimizer.zero_grad()
                criterion(model(x), y).backward()
                optimizer.step()
            scheduler.step()
            if max_steps is not None:
                seconds = (time.perf_counter() - started) / max_steps * len(loader)
                started = time.perf_counter()
                score = accuracy(model, test_loader)
                print("epoch_s", seconds + time.perf_counter() - started, flush=True)
            else:
                score = accuracy(model, test_loader)
            trial.report(score, epoch)
        return score

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="plain", storage=storage, direction="maximize", load_if_exists=True
    )
    for candidate in candidates:
        study.enqueue_trial(candidate, skip_if_exists=True)
    while sum(trial.state != optuna.trial.TrialState.WAITING for trial in study.trials) < len(
        candidates
    ):
        study.optimize(objective, n_trials=1)


if __name__ == "__main__":
    main()
