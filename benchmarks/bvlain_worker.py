"""One crystal through BVlain, for ``bvse_vs_bvlain.py``; runs in an interpreter that has bvlain 0.25.1.

    python bvlain_worker.py CIF SPACING_A FIELD.npy DECORATED.json [CHARGED.json]

The charges are BVlain's own (pymatgen's BVAnalyzer); where these fail or have no parameters, those of CHARGED.json.
Prints one JSON line: barriers, grid, processor and wall seconds of field and percolation (the shortest of up to three
runs that begin within 15 s), and the growth of resident memory beyond what the loaded and warmed-up interpreter held.
"""

import contextlib
import json
import os
import sys
import time
import warnings
from pathlib import Path


def use_one_core() -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})


def resident_MB(kind: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (highest so far) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(kind):
            return float(line.split()[1]) / 1024
    raise SystemExit("This benchmark reads memory from /proc/self/status, so it needs Linux.")


def forget_highest_memory() -> float:
    """Start a new high-water mark; returns the resident memory now."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident_MB("VmRSS")


def shortest(run, repeats: int = 3, within_s: float = 15.0):  # type: ignore[no-untyped-def]
    """Result of the first run, and the least processor and wall seconds of up to ``repeats`` runs."""
    result, processor, wall, begun = None, [], [], time.perf_counter()
    for number in range(repeats):
        if number and time.perf_counter() - begun > within_s:
            break
        before, started = time.process_time(), time.perf_counter()
        answer = run()
        processor.append(time.process_time() - before)
        wall.append(time.perf_counter() - started)
        result = answer if number == 0 else result
        del answer
    return result, min(processor), min(wall)


def main() -> None:
    use_one_core()
    warnings.simplefilter("ignore")
    import numpy as np
    from bvlain import Lain
    from pymatgen.core import Lattice, Structure

    cif, spacing, field_file, decorated_file = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    warm = Lain(verbose=False)
    warm.read_structure(Structure(Lattice.cubic(4.6), ["Li1+", "F1-"], [[0, 0, 0], [0.5, 0.5, 0.5]]), oxi_check=False)
    warm.bvse_distribution(mobile_ion="Li1+", resolution=0.6)
    warm.percolation_barriers()

    lain = Lain(verbose=False)

    def charge_failure(given: Structure | None) -> str:
        try:
            if given is None:
                lain.read_structure(Structure.from_file(cif))
            else:
                lain.read_structure(given, oxi_check=False)
            with contextlib.redirect_stdout(None):
                lain.bvse_distribution(mobile_ion="Li1+", resolution=1.0)
        except (ValueError, KeyError) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    own_failure = charge_failure(None)
    if own_failure:
        given = Structure.from_str(Path(sys.argv[5]).read_text(), fmt="json") if len(sys.argv) > 5 else None
        if given is None or charge_failure(given):
            print(json.dumps({"error": own_failure}))
            return

    def run():  # type: ignore[no-untyped-def]
        before, begun = time.process_time(), time.perf_counter()
        lain.bvse_distribution(mobile_ion="Li1+", resolution=spacing)
        field = time.process_time() - before, time.perf_counter() - begun
        return lain.percolation_barriers(), field

    resting = forget_highest_memory()
    (barriers, field), processor, wall = shortest(run)
    peak = resident_MB("VmHWM")
    np.save(field_file, lain.data[:-1, :-1, :-1])
    decorated_file.write_text(lain.st.to_json())
    print(
        json.dumps(
            {
                "own_charges_failed": own_failure,
                "barriers_eV": [barriers[f"E_{d}D"] for d in (1, 2, 3)],
                "grid_shape": [n - 1 for n in lain.size],
                "field_first_run_s": field[0],
                "processor_s": processor,
                "wall_s": wall,
                "memory_MB": peak - resting,
                "resting_MB": resting,
            }
        )
    )


if __name__ == "__main__":
    main()
