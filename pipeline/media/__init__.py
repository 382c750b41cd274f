"""What FFmpeg tells of a file that a user gives: opening it safely, its orientation, its clock and its sound."""
