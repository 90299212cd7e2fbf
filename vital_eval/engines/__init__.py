"""What runs a model: Hugging Face in process, or a script for tests."""
