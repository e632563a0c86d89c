# Finds LibTorch (2.11 or newer) without its own TorchConfig.cmake, which fails where no CUDA toolkit is installed.
#
# Looks, in this order, at LibTorch_ROOT (a pip `torch` folder, an unpacked libtorch archive, or a prefix or virtual
# environment that holds one), at CMAKE_PREFIX_PATH, and at the `torch` package of the python3 on PATH, which is
# located and never imported. Defines
#
#   LibTorch_VERSION, LibTorch_DIR_FOUND
#   LibTorch::cpu    libtorch_cpu and libc10, enough for CPU training
#   LibTorch::cuda   adds libtorch_cuda, libc10_cuda and the CUDA runtime of the wheel `nvidia/cu13`
#                    (only where they are present; no toolkit and no nvcc needed)
#   LibTorch_CUDA_MISSING_HEADERS
#                    what includes of CUDA's headers need and neither those wheels nor a toolkit has; empty: nothing

set(_libtorch_candidates)
foreach(_root IN ITEMS "${LibTorch_ROOT}" "$ENV{LibTorch_ROOT}")
  if(_root)
    file(GLOB _inside "${_root}/lib/python3*/site-packages/torch")
    list(APPEND _libtorch_candidates "${_root}" "${_root}/torch" "${_root}/libtorch" ${_inside})
  endif()
endforeach()
set(_libtorch_required_root "${_libtorch_candidates}")
foreach(_prefix IN LISTS CMAKE_PREFIX_PATH)
  file(GLOB _inside "${_prefix}/lib/python3*/site-packages/torch")
  list(APPEND _libtorch_candidates "${_prefix}" "${_prefix}/torch" "${_prefix}/libtorch" ${_inside})
endforeach()
if(NOT _libtorch_required_root)
  find_program(LibTorch_PYTHON python3)
  mark_as_advanced(LibTorch_PYTHON)
  if(LibTorch_PYTHON)
    execute_process(
      COMMAND "${LibTorch_PYTHON}" -c
        "import importlib.util as u, os; s = u.find_spec('torch'); print(os.path.dirname(s.origin) if s and s.origin else '')"
      OUTPUT_VARIABLE _located OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    list(APPEND _libtorch_candidates "${_located}")
  endif()
endif()

set(LibTorch_DIR_FOUND "")
foreach(_candidate IN LISTS _libtorch_candidates)
  if(EXISTS "${_candidate}/lib/libtorch_cpu.so" AND EXISTS "${_candidate}/include/ATen/ATen.h")
    get_filename_component(LibTorch_DIR_FOUND "${_candidate}" ABSOLUTE)
    break()
  endif()
endforeach()

set(LibTorch_VERSION "")
foreach(_header torch/headeronly/version.h torch/csrc/api/include/torch/version.h)
  if(LibTorch_DIR_FOUND AND NOT LibTorch_VERSION AND EXISTS "${LibTorch_DIR_FOUND}/include/${_header}")
    file(STRINGS "${LibTorch_DIR_FOUND}/include/${_header}" _lines
         REGEX "^#define TORCH_VERSION_(MAJOR|MINOR|PATCH) +[0-9]+")
    string(REGEX REPLACE ".*MAJOR +([0-9]+).*MINOR +([0-9]+).*PATCH +([0-9]+).*" "\\1.\\2.\\3" LibTorch_VERSION "${_lines}")
  endif()
endforeach()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_DIR_FOUND
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "Give the folder with -DLibTorch_ROOT=..., or let tools/setup.sh install the pinned wheel.")

function(_libtorch_import name library)
  add_library(LibTorch::${name} SHARED IMPORTED)
  set_target_properties(LibTorch::${name} PROPERTIES IMPORTED_LOCATION "${library}" IMPORTED_NO_SONAME FALSE)
endfunction()

# The CUDART_VERSION that the headers in `folder` are of; empty where there are none.
function(_libtorch_cuda_version folder result)
  set(_version "")
  if(EXISTS "${folder}/cuda_runtime_api.h")
    file(STRINGS "${folder}/cuda_runtime_api.h" _version REGEX "^#define CUDART_VERSION +[0-9]+")
    string(REGEX REPLACE "[^0-9]" "" _version "${_version}")
  endif()
  set(${result} "${_version}" PARENT_SCOPE)
endfunction()

if(LibTorch_FOUND AND NOT TARGET LibTorch::cpu)
  # CMake hands runtime paths over by -Wl, which ends an argument at each comma. This counts for the folder that asks
  # for LibTorch, and for those below it.
  if(LibTorch_DIR_FOUND MATCHES ",")
    set(CMAKE_EXECUTABLE_RUNTIME_CXX_FLAG "-Xlinker -rpath -Xlinker ")
    set(CMAKE_SHARED_LIBRARY_RUNTIME_CXX_FLAG "-Xlinker -rpath -Xlinker ")
    set(CMAKE_EXECUTABLE_RPATH_LINK_CXX_FLAG "-Xlinker -rpath-link -Xlinker ")
    set(CMAKE_SHARED_LIBRARY_RPATH_LINK_CXX_FLAG "-Xlinker -rpath-link -Xlinker ")
  endif()

  set(_lib "${LibTorch_DIR_FOUND}/lib")
  set(_wheels "${LibTorch_DIR_FOUND}/../nvidia")

  _libtorch_import(c10 "${_lib}/libc10.so")
  target_include_directories(LibTorch::c10 SYSTEM INTERFACE
    "${LibTorch_DIR_FOUND}/include" "${LibTorch_DIR_FOUND}/include/torch/csrc/api/include")
  # The wheel's libraries name others that only their own RPATH finds (CUDA runtime, cuBLAS, ...).
  target_link_options(LibTorch::c10 INTERFACE -Wl,--allow-shlib-undefined)

  _libtorch_import(torch_cpu "${_lib}/libtorch_cpu.so")
  target_link_libraries(LibTorch::torch_cpu INTERFACE LibTorch::c10)
  add_library(LibTorch::cpu INTERFACE IMPORTED)
  target_link_libraries(LibTorch::cpu INTERFACE LibTorch::torch_cpu LibTorch::c10)

  # cudart of the wheel; a toolkit's copy would be a second CUDA runtime in the process.
  set(_cudart "${_wheels}/cu13/lib/libcudart.so.13")
  set(_cuda_include "${_wheels}/cu13/include")
  if(NOT EXISTS "${_cudart}")
    file(GLOB _cudart "${_lib}/libcudart*.so*")  # archives ship their own copy, under a hashed name
    list(POP_FRONT _cudart _cudart)
    find_path(LibTorch_CUDA_INCLUDE cuda_runtime_api.h PATHS /usr/local/cuda/include)
    set(_cuda_include "${LibTorch_CUDA_INCLUDE}")
  endif()
  # A CPU-only installation has the torch wheel, libtorch_cuda.so included, but not what that library links.
  set(_cuda_complete TRUE)
  if(EXISTS "${_wheels}" AND NOT EXISTS "${_wheels}/cudnn")
    set(_cuda_complete FALSE)
  endif()
  if(_cuda_complete AND _cudart AND EXISTS "${_lib}/libtorch_cuda.so" AND EXISTS "${_lib}/libc10_cuda.so"
     AND EXISTS "${_cuda_include}/cuda_runtime_api.h")
    # The wheel of the runtime has headers that include those of two other wheels. A toolkit of the same CUDA has them as
    # well; its folder comes second, so that what both have is the wheel's.
    set(_cuda_includes "${_cuda_include}")
    _libtorch_cuda_version("${_cuda_include}" _wheel_version)
    _libtorch_cuda_version(/usr/local/cuda/include _toolkit_version)
    set(_toolkit_include "")
    if(_wheel_version VERSION_EQUAL _toolkit_version)
      set(_toolkit_include /usr/local/cuda/include)
    endif()
    set(LibTorch_CUDA_MISSING_HEADERS "")
    foreach(_header crt/host_config.h nv/target)
      find_path(_header_folder "${_header}" PATHS "${_cuda_include}" ${_toolkit_include} NO_DEFAULT_PATH NO_CACHE)
      if(_header_folder)
        list(APPEND _cuda_includes "${_header_folder}")
      else()
        list(APPEND LibTorch_CUDA_MISSING_HEADERS "${_header}")
      endif()
      unset(_header_folder)
    endforeach()
    list(REMOVE_DUPLICATES _cuda_includes)

    _libtorch_import(c10_cuda "${_lib}/libc10_cuda.so")
    _libtorch_import(cudart "${_cudart}")
    target_include_directories(LibTorch::cudart SYSTEM INTERFACE ${_cuda_includes})
    add_library(LibTorch::cuda INTERFACE IMPORTED)
    # Nothing refers to libtorch_cuda by name: it registers itself when loaded, so the linker must not drop it.
    target_link_libraries(LibTorch::cuda INTERFACE
      # Quoted, since it may hold spaces, and apart from -Wl, since it may hold commas.
      "-Wl,--push-state,--no-as-needed \"${_lib}/libtorch_cuda.so\" -Wl,--pop-state"
      LibTorch::c10_cuda LibTorch::cudart LibTorch::cpu)
  endif()
endif()
