"""One model on one text: every decision, measured and summarised."""
