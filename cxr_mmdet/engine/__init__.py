"""What hangs on mmengine's Runner: metrics, hooks, loops, configs."""
