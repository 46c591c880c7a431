"""What a study looks like in words: the note on the dashboard, and the closing lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from golf_opt.storage.optuna_internals import save_note
from golf_opt.storage.studies import (
    NOTE_SECTIONS,
    mark,
    marks,
    num_finished,
    readings_of,
)
from golf_opt.study.aims import answer
from golf_opt.study.description import StudyDescription, description_of, snapshot_of
from golf_opt.study.front import MOST, fresh_words, front_rows, nets_words
from golf_opt.task.goals import Goal, show_goals, show_values
from golf_opt.utils.points import is_further_seed, seeds_of
from golf_opt.utils.text import aligned, count, markdown_table, percent, show_params
from golf_opt.utils.trials import attribute, counts, epoch_losses, state_words
from golf_opt.visualization.snapshot import (
    NOISE_SDS,
    StudySnapshot,
    not_told_apart,
    repeats,
    seed_noise,
)

ACCURACY = (Goal("accuracy"),)


def log(trial: FrozenTrial, goals: Sequence[Goal]) -> str:
    """Return a trial as a log that a person reads: what it was, and a line for each epoch."""
    attributes = trial.user_attrs
    start, end = trial.datetime_start, trial.datetime_complete
    lines = [
        f"trial {trial.number}: {state_words(trial)}",
        f"parameters  {show_params(trial.params) or 'none tuned'}",
        f"seed        {attributes.get('seed', '-')}",
        f"engine      {attributes.get('engine', '-')} on {attributes.get('device', '-')}",
        f"started     {start:%Y-%m-%d %H:%M:%S}" if start else "started     -",
        f"ended       {end:%Y-%m-%d %H:%M:%S}" if end else "ended       -",
        "",
        "epoch  accuracy     loss" if goals[0].accuracy else f"epoch  {goals[0].name}",
    ]
    losses = dict(enumerate(epoch_losses(trial), 1))
    for epoch, value in sorted(trial.intermediate_values.items()):
        line = f"{epoch:>5}  {goals[0].show(value):>8}"
        if goals[0].accuracy:
            line += f"  {losses[epoch]:8.4f}" if epoch in losses else "         -"
        lines.append(line)
    if len(goals) > 1 and trial.state == TrialState.COMPLETE:
        lines.append(f"\nafter the last epoch: {show_values(goals, trial.values)}")
    train = attribute(trial, "train_accuracy", float)
    if train is not None:
        lines.append(f"\ntrain accuracy at the end  {percent(train)}")
    if "fail_reason" in attributes:
        lines.append(f"\nfailed: {attributes['fail_reason']}")
    return "\n".join(lines) + "\n"


def write_note(study: optuna.Study, plan: StudyDescription) -> None:
    """Write the Markdown note that heads the study on the dashboard."""
    save_note(study, note(study, plan))


def add_section(study: optuna.Study, title: str, text: str) -> None:
    """Put a section of Markdown into the study's note, in place of an earlier one of its title."""
    mark(study, NOTE_SECTIONS, marks(study).get(NOTE_SECTIONS, {}) | {title: text})
    write_note(study, description_of(study))


def note(study: optuna.Study, plan: StudyDescription) -> str:
    """Return the study in Markdown: what, on what data, by which rule, best so far, the command."""
    space = plan.search_space
    tally = counts(study)
    finished = ", ".join(
        f"{tally[s]} {s}" for s in ("complete", "pruned", "paused", "fail") if tally[s]
    )
    lines = [
        f"# {title_of(plan)}",
        "",
        f"Objective: **{plan.by_seed.words(plan.goals)}** after {plan.epochs} epochs, "
        "one seed a trial.",
        "",
        "| | |",
        "|---|---|",
        *([f"| data | {plan.data} ({plan.num_train:,} training images) |"] if plan.data else []),
        *([f"| teacher | {plan.teacher.words} ({plan.teacher.digest}) |"] if plan.teacher else []),
        *([f"| protocol | `{plan.protocol}`: {protocol_words(plan)} |"] if plan.data else []),
        f"| tuned | {', '.join(f'`{name}`' for name in space.tuned) or 'nothing'} |",
        f"| fixed | {show_params(space.fixed) or 'nothing'} |",
        f"| trials | {finished or 'none finished'}{of_total(plan)} |",
        f"| made by | `{plan.command}` |",
        "",
    ]
    snapshot = snapshot_of(study)
    best = answer(study)
    if (seeds := seeds_words(study, plan)) is not None:
        lines.append(f"Nothing is tuned, every trial is a seed: **{seeds}**.")
    elif best is not None:
        shown = show_params(best.params) or "no tuned parameters"
        lines += [
            f"Best so far: **{result_words(best, plan.goals)}**: `{shown}`",
            "",
            *([noise_words(snapshot)] if len(plan.goals) == 1 else []),
        ]
    if (len(plan.goals) > 1 and snapshot.front) or (plan.nets and snapshot.net_front):
        lines += ["Front so far, of trials that none beats in every objective:", ""]
        lines.append(front_table(snapshot, readings_of(study)))
    for title, text in marks(study).get(NOTE_SECTIONS, {}).items():
        lines += ["", f"## {title}", "", text]
    return "\n".join(lines)


def of_total(plan: StudyDescription) -> str:
    """Return ` of 50`, or nothing where a study has no total."""
    return "" if plan.trials is None else f" of {plan.trials:,}"


def trials_words(number: int, plan: StudyDescription) -> str:
    """Return `12 of 50 trials`, or `12 trials` where a study has no total."""
    if plan.trials is None:
        return count(number, "trial")
    return f"{number} of {count(plan.trials, 'trial')}"


def title_of(plan: StudyDescription) -> str:
    """Return `c4-5-4: 807 parameters`, or an objective's name."""
    if plan.one_net is None:
        return plan.subject
    return f"{plan.subject}: {plan.net.num_params} parameters"


def front_table(study: StudySnapshot, test: Mapping[int, float]) -> str:
    """Return the front in Markdown, a row a trial, and what it says of fresh seeds."""
    table = markdown_table(*front_rows(study, test))
    return f"{table}\n\n{words}." if (words := fresh_words(study)) else table


def noise_words(study: StudySnapshot) -> str:
    """Say how many trials cannot be told from the best one, by what is known of seed noise."""
    sd, source = seed_noise(study)
    if sd is None:
        return source
    alike, all_of_them = not_told_apart(study), len(study.points)
    if alike < 2:
        return f"Seed noise: {source}. No other trial is within {NOISE_SDS:g} sd of the best."
    what = "complete trials" if all_of_them == len(study.complete) else "points"
    return (
        f"**{alike} of {all_of_them} {what} cannot be told apart:** they lie within "
        f"{NOISE_SDS:g} sd of seed noise below the best ({source}). Which of them is really best "
        "takes more seeds."
    )


PROTOCOL_WORDS = {
    "test": "the objective is accuracy on the test set, the article's rule",
    "holdout": "the objective is accuracy on held-out training images; the test set is read at "
    "the end, for the best trial or the front alone",
}


def protocol_words(plan: StudyDescription) -> str:
    """Say by what rule a study measures; an objective may do with its data what it likes."""
    if plan.objective is not None:
        return f"what `job.data` splits {plan.data} into"
    return PROTOCOL_WORDS[plan.protocol]


def result_words(trial: FrozenTrial, goals: Sequence[Goal] = ACCURACY) -> str:
    """Return `94.37 % (trial 1, n = 1 seed, train accuracy 93.89 %)` for a complete trial."""
    train = attribute(trial, "train_accuracy", float) if seeds_of(trial) == 1 else None
    beside = f", train accuracy {percent(train)}" if train is not None else ""
    seeds = count(seeds_of(trial), "seed")
    return f"{show_values(goals, trial.values)} (trial {trial.number}, n = {seeds}{beside})"


def seeds_words(study: optuna.Study, plan: StudyDescription) -> str | None:
    """Say what the seeds came to where nothing is tuned; None where something is, or of one seed.

    For example `mean 97.67 %, sd 0.28 points, 97.10 to 98.28 %, n = 24 seeds`.
    """
    seeds = repeats(plan.snapshot(study.study_name, study.get_trials(deepcopy=False)))
    return None if seeds is None else seeds.words


def front_words(study: StudySnapshot, test: Mapping[int, float]) -> list[str]:
    """Return the front in lines of an aligned table, and how many more there are."""
    nets = len(study.net_front)
    what = count(nets, "net") if nets else count(len(study.front), "trial")
    goals = f"{study.goal.name} and size" if nets else show_goals(study.goals)
    more = (nets or len(study.front)) - MOST
    return [
        f"front of {goals}: {what}",
        *(f"  {line}" for line in aligned(*front_rows(study, test, MOST))),
        *([f"  and {more} more, which golf-opt report shows"] if more > 0 else []),
        *([f"  {words}"] if (words := fresh_words(study)) else []),
    ]


def target_words(plan: StudyDescription, best: FrozenTrial | None) -> str:
    """Say which net is the answer of a search with a target."""
    assert plan.target is not None
    if best is None:
        return f"no net reaches {percent(plan.target)} yet"
    return (
        f"smallest net that reaches {percent(plan.target)}: {best.values[1]:,.0f} parameters, "
        f"{result_words(best, plan.goals[:1])}"
    )


def closing_words(study: optuna.Study, plan: StudyDescription, test: Mapping[int, float]) -> str:
    """Return the last lines of `golf-opt study` but what to do next: best trial, study name."""
    best, tally = answer(study), counts(study)
    trials, snapshot = study.get_trials(deepcopy=False), snapshot_of(study)
    finished = num_finished(study)
    lines = [""]
    if (seeds := seeds_words(study, plan)) is not None:
        lines.append(f"{plan.goals[0].name}: {seeds}")
    elif best is not None and len(plan.goals) == 1:
        what = f"best {plan.by_seed.aim(plan.goals[0])}"
        lines.append(f"{what} {result_words(best, plan.goals)}")
    if (len(plan.goals) > 1 and snapshot.front) or (plan.nets and snapshot.net_front):
        lines += front_words(snapshot, test)
    if plan.target is not None:
        lines.append(target_words(plan, best))
    if best is not None and plan.nets is None:
        params = best.params or plan.search_space.fixed
        lines.append(f"  {show_params(params)}{'' if best.params else ', nothing tuned'}")
    if best is not None and best.number in test:
        lines.append(
            f"test accuracy of trial {best.number}, read once: {percent(test[best.number])}"
        )
    if plan.nets is not None:
        lines.append(nets_words(plan, trials))
    repeats = sum(map(is_further_seed, trials))
    seeds_too = f", {count(repeats, 'further seed')}" if repeats else ""
    waiting = f", {tally['waiting']} waiting to go on" if tally["waiting"] else ""
    waiting = (f", {tally['paused']} paused" if tally["paused"] else "") + waiting
    failed = f", {tally['fail']} failed" if tally["fail"] else ""
    lines.append(
        f"study {study.study_name}: {trials_words(finished, plan)} finished "
        f"({tally['pruned']} pruned{failed}){seeds_too}{waiting}"
    )
    return "\n".join(lines)
