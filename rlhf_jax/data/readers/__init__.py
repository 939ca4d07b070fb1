"""Where rows come from: JSONL files, Hugging Face data sets, TFDS. All give the same rows and the same errors."""
