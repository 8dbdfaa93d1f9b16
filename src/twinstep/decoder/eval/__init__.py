"""What the model has learnt, on what it has not seen.

items        tasks, and held-out examples as documents for lm-eval
blind        what a model sees of media: all, nothing, frames out of order
model        the decoder as a model of lm-eval
measure      asks a model the tasks; tasks/*.yaml are lm-eval's files
intervals    how sure each number is
baselines    what simple means reach on the same items (ngram, similar)
report       the table, and what falls short of a threshold
page         sampled answers to look at and listen to (chosen, picture, style)
run          evaluate(run_folder): all of it, for one run
"""
