# Compile backbone and neck by torch.compile, in the first iterations.
#
# It needs a C++ compiler, on a GPU Triton. Weights, checkpoints and heads stay as they are.
custom_hooks = [dict(type="CompileHook")]
