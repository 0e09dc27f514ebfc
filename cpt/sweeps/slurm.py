"""A SLURM job array for a sweep: one cell a task."""

import shlex
import sys
from pathlib import Path

from cpt.files import write_whole
from cpt.sweeps.plan import Plan


def write_scripts(plan: Plan, sweep: str, folder: Path) -> list[tuple[Path, str]]:
    """Write the scripts; each with the command that submits it. Cells that are tuned wait for those that are tried."""
    tuning, judged = len(plan.tuning), len(plan.cells)
    plan.out.mkdir(parents=True, exist_ok=True)
    if not plan.trials:
        path = plan.out / "sweep.sbatch"
        write_whole(path, script(plan, sweep, folder, 0, judged - 1))
        return [(path, f"sbatch {shlex.quote(str(path))}")]
    first, second = plan.out / "sweep-tuning.sbatch", plan.out / "sweep-judged.sbatch"
    write_whole(first, script(plan, sweep, folder, 0, tuning - 1))
    write_whole(second, script(plan, sweep, folder, tuning, tuning + 2 * judged - 1))
    submit = f"job=$(sbatch --parsable {shlex.quote(str(first))})"
    after = f"sbatch --dependency=afterok:$job {shlex.quote(str(second))}"
    return [(first, submit), (second, after)]


def script(plan: Plan, sweep: str, folder: Path, first: int, last: int) -> str:
    options = {
        "job-name": plan.sweep.name,
        "array": f"{first}-{last}",
        "output": str(plan.out.resolve() / "slurm-%A-%a.out"),
        **plan.sweep.slurm,
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in options.items()]
    words = [sys.executable, "-m", "cpt", "sweep", sweep, "--out", str(plan.out.resolve())]
    command = " ".join(map(shlex.quote, words))
    return "\n".join(
        [
            "#!/bin/bash",
            *lines,
            "set -euo pipefail",
            f"cd {shlex.quote(str(folder))}",
            f'exec {command} --cell "$SLURM_ARRAY_TASK_ID"',
            "",
        ]
    )
