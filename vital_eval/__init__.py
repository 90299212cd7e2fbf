"""vital-eval: does thinking with videos beat text-only chain of thought?

Importing this package loads neither torch nor transformers nor pandas; the heavy parts are imported by
the modules that need them. ``ARCHITECTURE.md`` names the central types and shows how data flows.
"""

__version__ = "0.1.0"
