"""What `deploy/` hands out: rendered, validated, compared with the program, all offline."""
