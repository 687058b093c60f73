"""What every volume promises, and what each one adds."""
