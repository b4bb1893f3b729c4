"""What is shown while slots work: by the driver, and by `raymeta watch` from elsewhere; one view for both."""
