"""What an emulated accelerator does and how long it takes; pure, shared by workers and planner."""
