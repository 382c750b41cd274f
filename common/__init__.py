"""What every package may use: randomness, files, environment, progress. It knows neither video nor learning."""
