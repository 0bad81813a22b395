"""Where figures of private records leave a run, and what decides by them."""
