"""The command line of dynamo_ray; installed as the package `dynamo_ray_cli`."""
