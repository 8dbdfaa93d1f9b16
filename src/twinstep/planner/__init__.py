"""Forecasts what failures will cost a job, and what its copies need, before it runs."""
