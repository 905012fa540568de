"""The agent in a guest: VSEM and VREM in one small process. Standard library only, Python 3.7 and up.

Modules that are large in memory (``json``, ``socket``, ``typing``, ``asyncio``, …) are left out on purpose.
"""
