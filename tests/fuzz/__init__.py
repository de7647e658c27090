"""A seeded fuzzer: damaged and hostile files of one kind, each read in a child process with a time limit.

    python -m tests.fuzz --kind features --runs 10000 --seed 0

A kind is a module with two functions, and one line in ``KINDS``:

    make(rng, folder) -> Case      write one bad file below ``folder``
    check(case) -> str             read it as ltpost does: "ok", "refused" (LtpostError), or "wrong: …" for an answer
                                   that is silently wrong; any other exception is a traceback that a user would see
"""

#: kind of file to the module that makes and reads it
KINDS = {
    "features": "tests.fuzz.features",
    "heads": "tests.fuzz.heads",
    "checkpoints": "tests.fuzz.checkpoints",
    "convert": "tests.fuzz.convert",
    "images": "tests.fuzz.images",
    "layouts": "tests.fuzz.layouts",
}
