"""What each task does: load, plan, show, apply. One public function a module."""
