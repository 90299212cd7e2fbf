"""Training: supervised fine-tuning on conversations, and the recipe of vital-nano."""
