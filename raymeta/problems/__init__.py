"""What is learned: a domain a folder, with its data, its episodes and its score."""
