"""Training: epochs, steps, metrics, early stopping. Knows neither Optuna nor MLflow."""
