"""Where rows come from: JSONL files, Hugging Face data sets, TFDS. Each gives the same rows and the same errors."""
