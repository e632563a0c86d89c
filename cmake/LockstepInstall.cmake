# Installs the library, its headers, and what find_package(Lockstep) needs.

include(CMakePackageConfigHelpers)
set(config_dir "${CMAKE_INSTALL_LIBDIR}/cmake/Lockstep")

install(TARGETS lockstep EXPORT LockstepTargets
        ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}"
        LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(DIRECTORY include/lockstep DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.h")
install(EXPORT LockstepTargets NAMESPACE Lockstep:: DESTINATION "${config_dir}")

configure_package_config_file(cmake/LockstepConfig.cmake.in "${PROJECT_BINARY_DIR}/LockstepConfig.cmake"
                              INSTALL_DESTINATION "${config_dir}")
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/LockstepConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES
  "${PROJECT_BINARY_DIR}/LockstepConfig.cmake" "${PROJECT_BINARY_DIR}/LockstepConfigVersion.cmake"
  cmake/FindLibTorch.cmake cmake/FindNCCL.cmake
  DESTINATION "${config_dir}")

install(PROGRAMS tools/install_libtorch.sh tools/run_log.py DESTINATION "${CMAKE_INSTALL_DATADIR}/lockstep")
install(FILES tools/messages.sh tools/versions.env DESTINATION "${CMAKE_INSTALL_DATADIR}/lockstep")
install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DATADIR}/doc/liblockstep-dev" RENAME copyright)
install(DIRECTORY examples DESTINATION "${CMAKE_INSTALL_DATADIR}/doc/liblockstep-dev" PATTERN run.sh EXCLUDE)
