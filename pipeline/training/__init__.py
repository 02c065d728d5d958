"""Training: epochs, one optimizer step, metrics, early stopping. Knows neither Optuna nor MLflow."""
