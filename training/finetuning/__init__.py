"""Fine-tuning: from a trained model and new calculations to a better model and a report."""
