"""What tests share: real servers in processes of their own, fakes with fault injection, mounts under a time limit."""
