# Finds what Lockstep links. Result variables LOCKSTEP_HAS_CUDA, LOCKSTEP_HAS_GLOO,
# LOCKSTEP_HAS_IMAGES, LOCKSTEP_HAS_MPI and LOCKSTEP_HAS_NVTX are ON or OFF, never AUTO; LOCKSTEP_IMAGE_LIBRARIES
# is empty where there are no images.

# lockstep_read_version(NAME): the value of NAME in the file that pins all versions.
function(lockstep_read_version name)
  file(STRINGS "${CMAKE_CURRENT_SOURCE_DIR}/tools/versions.env" line REGEX "^${name}=")
  string(REGEX REPLACE "^${name}=\"?([^\"]*)\"?$" "\\1" value "${line}")
  set(${name} "${value}" PARENT_SCOPE)
endfunction()
lockstep_read_version(LOCKSTEP_TORCH_MINIMUM)
lockstep_read_version(LOCKSTEP_CUDA_HEADER_WHEELS)
find_package(LibTorch ${LOCKSTEP_TORCH_MINIMUM} REQUIRED)
find_package(Threads REQUIRED)
find_package(ZLIB REQUIRED)
find_package(CURL 7.87 REQUIRED)  # logs to a collector
find_package(nlohmann_json REQUIRED)  # headers alone, and none of them in a public header
find_path(XXHASH_INCLUDE_DIR xxhash.h REQUIRED)  # the same
mark_as_advanced(XXHASH_INCLUDE_DIR)

set(LOCKSTEP_HAS_IMAGES OFF)
set(LOCKSTEP_IMAGE_LIBRARIES)
if(LOCKSTEP_WITH_IMAGES STREQUAL "AUTO")
  find_package(JPEG QUIET)  # libjpeg-turbo; jpeg_decoder.cpp says so where it is another one
  find_package(PNG QUIET)
elseif(LOCKSTEP_WITH_IMAGES)
  find_package(JPEG REQUIRED)
  find_package(PNG REQUIRED)
endif()
if(LOCKSTEP_WITH_IMAGES AND JPEG_FOUND AND PNG_FOUND)
  set(LOCKSTEP_HAS_IMAGES ON)
  set(LOCKSTEP_IMAGE_LIBRARIES JPEG::JPEG PNG::PNG)
endif()

set(LOCKSTEP_HAS_CUDA OFF)
if(NOT LOCKSTEP_WITH_CUDA STREQUAL "OFF")
  find_package(NCCL QUIET)
  if(TARGET LibTorch::cuda AND NCCL_FOUND AND LibTorch_CUDA_MISSING_HEADERS)
    # Not without a word: a program built on this machine would train on the CPU.
    list(JOIN LibTorch_CUDA_MISSING_HEADERS ", " _missing)
    set(_text "The LibTorch in ${LibTorch_DIR_FOUND} has CUDA, but these headers of CUDA are missing: ${_missing}. Install "
              "the wheels ${LOCKSTEP_CUDA_HEADER_WHEELS} (or those of your CUDA version) beside it")
    string(CONCAT _text ${_text})
    if(LOCKSTEP_WITH_CUDA STREQUAL "AUTO")
      message(WARNING "${_text}. Lockstep is built without CUDA.")
    else()
      message(FATAL_ERROR "LOCKSTEP_WITH_CUDA is ${LOCKSTEP_WITH_CUDA}. ${_text}.")
    endif()
  elseif(TARGET LibTorch::cuda AND NCCL_FOUND)
    set(LOCKSTEP_HAS_CUDA ON)
  elseif(NOT LOCKSTEP_WITH_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "LOCKSTEP_WITH_CUDA is ${LOCKSTEP_WITH_CUDA}, but the LibTorch in ${LibTorch_DIR_FOUND} has no "
                        "complete set of CUDA and NCCL libraries beside it (LOCKSTEP_CPU_ONLY installs none)")
  endif()
endif()

# NVTX is headers of CUDA's wheels and of toolkits alone; an archive of LibTorch has none of them.
set(LOCKSTEP_HAS_NVTX OFF)
if(LOCKSTEP_HAS_CUDA)
  get_target_property(_cuda_includes LibTorch::cudart INTERFACE_INCLUDE_DIRECTORIES)
  find_path(_nvtx_include nvtx3/nvToolsExt.h PATHS ${_cuda_includes} NO_DEFAULT_PATH NO_CACHE)
  if(_nvtx_include)
    set(LOCKSTEP_HAS_NVTX ON)
  endif()
endif()

# Declarations only: LibTorch holds gloo's code, and a second copy in the process would be a defect.
set(LOCKSTEP_HAS_GLOO OFF)
if(NOT LOCKSTEP_WITH_GLOO STREQUAL "OFF")
  find_path(GLOO_INCLUDE_DIR gloo/transport/device.h)
  mark_as_advanced(GLOO_INCLUDE_DIR)
  if(GLOO_INCLUDE_DIR)
    set(LOCKSTEP_HAS_GLOO ON)
  elseif(LOCKSTEP_WITH_GLOO STREQUAL "ON")
    message(FATAL_ERROR "LOCKSTEP_WITH_GLOO is ON, but gloo's headers (Debian: libgloo-dev) were not found")
  endif()
endif()

set(LOCKSTEP_HAS_MPI OFF)
if(NOT LOCKSTEP_WITH_MPI STREQUAL "OFF")
  set(MPI_CXX_SKIP_MPICXX ON)  # the C interface only
  if(LOCKSTEP_WITH_MPI STREQUAL "AUTO")
    find_package(MPI QUIET COMPONENTS CXX)
  else()
    find_package(MPI REQUIRED COMPONENTS CXX)
  endif()
  if(MPI_CXX_FOUND)
    set(LOCKSTEP_HAS_MPI ON)
  endif()
endif()
