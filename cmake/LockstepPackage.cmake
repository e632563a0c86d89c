# What cpack makes of an installation: a Debian package of the library, its headers, the CMake package, the tools that
# install LibTorch and report on runs, and the sources of the examples. LibTorch is none of Debian's packages and stays the user's.

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME liblockstep-dev)
set(CPACK_PACKAGE_VERSION "${PROJECT_VERSION}")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGE_CONTACT "the Lockstep authors <lockstep@localhost>")
set(CPACK_RESOURCE_FILE_LICENSE "${PROJECT_SOURCE_DIR}/LICENSE")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES OFF)  # an archive needs its symbols
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION libdevel)

# What a program that links the library needs to be built; gloo's declarations serve the library's own build only.
set(_depends g++ "cmake (>= 3.24)" zlib1g-dev libcurl4-openssl-dev)
if(LOCKSTEP_HAS_IMAGES)
  list(APPEND _depends libjpeg62-turbo-dev libpng-dev)
endif()
if(LOCKSTEP_HAS_MPI)
  list(APPEND _depends libopenmpi-dev openmpi-bin)
endif()
list(JOIN _depends ", " CPACK_DEBIAN_PACKAGE_DEPENDS)
# For install_libtorch.sh, and for examples.
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "python3, python3-venv, libcli11-dev, dataset-fashion-mnist")
include(CPack)
