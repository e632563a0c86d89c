# Finds the NCCL that LibTorch itself loads: the wheel nvidia/nccl beside the torch package, else a system copy.
# Two different NCCLs in one process are a defect, so the wheel's comes first. Defines NCCL_VERSION and NCCL::nccl.

set(_nccl_wheel "${LibTorch_DIR_FOUND}/../nvidia/nccl")
find_path(NCCL_INCLUDE_DIR nccl.h HINTS "${_nccl_wheel}/include")
# The wheel holds the versioned name only.
find_file(NCCL_LIBRARY NAMES libnccl.so.2 HINTS "${_nccl_wheel}/lib"
          PATHS /usr/lib/x86_64-linux-gnu /usr/lib/aarch64-linux-gnu /usr/lib /usr/local/lib)
mark_as_advanced(NCCL_INCLUDE_DIR NCCL_LIBRARY)

set(NCCL_VERSION "")
if(NCCL_INCLUDE_DIR)
  file(STRINGS "${NCCL_INCLUDE_DIR}/nccl.h" _lines REGEX "^#define NCCL_(MAJOR|MINOR|PATCH) +[0-9]+")
  string(REGEX REPLACE ".*MAJOR +([0-9]+).*MINOR +([0-9]+).*PATCH +([0-9]+).*" "\\1.\\2.\\3" NCCL_VERSION "${_lines}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(NCCL REQUIRED_VARS NCCL_LIBRARY NCCL_INCLUDE_DIR VERSION_VAR NCCL_VERSION)

if(NCCL_FOUND AND NOT TARGET NCCL::nccl)
  add_library(NCCL::nccl SHARED IMPORTED)
  set_target_properties(NCCL::nccl PROPERTIES IMPORTED_LOCATION "${NCCL_LIBRARY}")
  target_include_directories(NCCL::nccl SYSTEM INTERFACE "${NCCL_INCLUDE_DIR}")
endif()
