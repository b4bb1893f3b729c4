"""Trials as lanes behind Ray Tune: a fleet computes the rounds of many, and a trial's own actor only asks it."""
