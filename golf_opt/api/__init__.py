"""What `import golf_opt as golf` gives: studies, trainings, nets and what one does with them."""
