"""Which pictures of a tree are of which class and split: what a person would see, or a refusal, and it is said."""
