"""Training code that does not depend on the data. Modules in the order in which train.py uses them:

task            start here: the interface to the data, `Task` and `Evaluation`
recipe          the options of the optimisation
plan            the configuration of a run: flags, defaults, the run to resume
distributed     the ranks of a run
loaders         the data loaders of one rank
sampler         which images make each update
learner         model, average, optimizer and gradient scaler
rmsprop         the optimizer of the released code
batch_norm      frozen layers, and recalibration of batch-norm statistics
ema             the moving average of the weights
fast_cpu        faster backward passes on CPUs with bf16 units
schedule        the learning rate
cropping        random crops
mixing          mixup and CutMix
progress        the position of a run between two updates
validation      metrics of the validation set, computed by all ranks together
state           conversion between a run's state and a checkpoint's content
checkpoint      checkpoint files, verified by checksum
store           when to save, and a thread that writes
runs            several runs, each in a process of its own
folds           `--fold all`: the runs of all folds in one folder
folder          the run folder: name, lock, logs, launch marks
signals         requests to stop
failures        infrastructure failures explained in one line
curves          curves.png
card            parts of MODEL_CARD.md
console         console output of a run
ensemble        trained checkpoints and their mean prediction, for evaluate.py
"""
