"""The ways to search that are compared."""

from simulated.search import STOPPING, Setting

SCHEDULERS_ALONE = [
    Setting("random", scheduler, **more)
    for scheduler, more in [
        ("none", {}),
        ("ASHA", {}),
        ("ASHA", {"reduction": 2}),
        ("ASHA", {"reduction": 4}),
        ("ASHA", {"first": 9}),
        ("ASHA", {"first": 9, "reduction": 2}),
        ("ASHA", {"first": 3}),
        ("lenient ASHA", {}),
        ("strict ASHA", {}),
        ("opening ASHA", {}),
        ("extrapolating ASHA", {"first": 9}),
        ("promoting ASHA", {}),
        ("PASHA-like", {}),
        ("median", {}),
        ("hyperband", {}),
    ]
]
"""Schedulers with random proposals, which cost next to nothing."""

SAMPLERS_ALONE = [
    Setting("random", starts=False),
    Setting(starts=False),
    STOPPING,
    Setting("multivariate TPE"),
    Setting("multivariate TPE", starts=False),
    Setting("PriorBand-like"),
    Setting("CMA-ES"),
    Setting("GP"),
    Setting(warm=True),
]
"""Samplers under raymeta's ASHA."""

BOTH = [
    Setting(scheduler="none"),
    Setting(reduction=2),
    Setting(reduction=4),
    Setting(first=9),
    Setting(scheduler="lenient ASHA"),
    Setting(scheduler="hyperband"),
    Setting(scheduler="strict ASHA"),
    Setting(scheduler="opening ASHA"),
    Setting(scheduler="opening ASHA", finalists=5),
    Setting(scheduler="strict ASHA", starts=False),
    Setting(scheduler="strict ASHA", reduction=2),
    Setting(scheduler="strict ASHA", reduction=4),
    Setting(scheduler="strict ASHA", finalists=5),
    Setting("multivariate TPE", "strict ASHA"),
    Setting(scheduler="promoting ASHA"),
    Setting(scheduler="promoting ASHA", starts=False),
    Setting(scheduler="promoting ASHA", finalists=5),
    Setting(scheduler="promoting ASHA", warm=True, finalists=5),
    Setting(scheduler="PASHA-like"),
    Setting(scheduler="PASHA-like", starts=False),
    Setting("PriorBand-like", "promoting ASHA"),
    Setting("multivariate TPE", "promoting ASHA"),
    Setting("CMA-ES", "promoting ASHA"),
    Setting(finalists=5),
    Setting(warm=True, finalists=5),
]
"""TPE under other schedulers, and what finalists add."""

OTHERS = [
    Setting("Ray's Optuna"),
    Setting("Syne Tune's CQR", "Syne Tune's ASHA"),
    Setting("SMAC", "its hyperband"),
]
"""Other systems."""

RANDOM = Setting("random", "none", starts=False)
"""Plain random search."""

SETTINGS = list(dict.fromkeys([RANDOM, *SCHEDULERS_ALONE, *SAMPLERS_ALONE, *BOTH, *OTHERS]))
