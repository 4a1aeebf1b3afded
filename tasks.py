"""The tasks of jingxiang. `python3 tasks.py TASK …` needs nothing but Python; `invoke TASK …` does the same.

Flags in, one call into `jingxiang.commands`, nothing else. This file must be parsed by Python 3.6 (see
`jingxiang.bootstrap`): no newer syntax here.
"""

from jingxiang import bootstrap

bootstrap.enter()  # returns only in the toolkit's own Python, where the imports below are installed

from jingxiang.places import here
from jingxiang.program import Program, task


@task(
    iterable=["upgrade"],
    help={
        "mirror": "mirror to ask first (default: auto)",
        "check": "only say whether the locks are fresh",
        "upgrade": "package to bring up to its newest version; may be repeated",
    },
)
def lock(_, mirror="auto", check=False, upgrade=()):
    """Renew the locks in envs/locks from the specs in envs."""
    from jingxiang.commands.lock import lock

    lock(here(), mirror=mirror, check=check, upgrade=upgrade)


if __name__ == "__main__":
    Program.of(__name__).main()
