"""Maps the folders of this repository onto the import packages ssl3d.cli/pipeline/models/data/benchmarks."""

from setuptools import find_packages, setup

FOLDERS = {"cli": "ssl3d_cli", "pipeline": "pipeline", "models": "models", "data": "data", "benchmarks": "benchmarks"}
package_dir = {f"ssl3d.{name}": folder for name, folder in FOLDERS.items()}
packages = list(package_dir)
for name, folder in FOLDERS.items():
    packages += [f"ssl3d.{name}.{sub}" for sub in find_packages(folder)]
setup(packages=packages, package_dir=package_dir)
