"""What everything runs on: seeds, whole files, the device, the optimiser loop."""
