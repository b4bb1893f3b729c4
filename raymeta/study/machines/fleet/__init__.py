"""Trials as lanes behind Ray Tune: a fleet computes the rounds of many, and no trial has a process of its own."""
