"""What torch does on a CPU in several passes over memory, in fewer: C++, built where it runs."""
