"""Training code that is independent of the data. The modules, in the order in which train.py uses them:

task            start here: the interface to the data, `Task` and `Evaluation`
recipe          the options of the optimisation
plan            a run before it starts: flags, defaults, the run to resume
distributed     the ranks of a run
loaders         the data loaders of one rank
sampler         which images make each update
learner         model, average, optimizer and gradient scaler
batch_norm      frozen layers, and statistics that are measured anew
ema             the moving average of the weights
fast_cpu        faster backward passes on CPUs with bf16 units
schedule        the learning rate
progress        where a run stands
validation      metrics of the validation set, shared among ranks
state           the content of a checkpoint, and back
checkpoint      the files of checkpoints, verified
store           when a run saves, in a thread
folder          the run folder: name, lock, logs, marks
signals         requests to stop
failures        failures of the machinery in one line
console         what a run prints
ensemble        trained checkpoints and their mean prediction, for evaluate.py
"""
