"""What a study's own record tells: it reads trials alone, and trains nothing."""
