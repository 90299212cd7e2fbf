"""Pure readers of what a model wrote. None of them raises on any text."""
