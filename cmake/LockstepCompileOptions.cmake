# Settings for everything built in this tree. Nothing here reaches programs that link Lockstep.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

# The precompiled header of torch/torch.h saves 15 s a file, and ccache can reuse results that include it only when
# told that its time stamps and defines do not matter. Paths below the source folder are hashed as relative ones, so
# that every clone on a machine finds what another has compiled.
find_program(LOCKSTEP_CCACHE ccache)
mark_as_advanced(LOCKSTEP_CCACHE)
if(LOCKSTEP_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${LOCKSTEP_CCACHE})
  add_compile_options($<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>)
endif()

# GCC instantiates what torch/torch.h leaves pending once more in every file, 8 s of it, precompiled or not; several
# files together pay that once. Names of files of one target must differ for that, those in nameless namespaces too.
if(NOT DEFINED CMAKE_UNITY_BUILD)
  set(CMAKE_UNITY_BUILD ${LOCKSTEP_UNITY_BUILD})
endif()

# GCC 12 sees overflows inside std::string that cannot happen (its bugs 105329 and 105651).
add_library(lockstep_warnings INTERFACE)
target_compile_options(lockstep_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wnon-virtual-dtor -Woverloaded-virtual
  # Nor does GCC follow initialisation through what sanitizers insert.
  $<$<AND:$<BOOL:${LOCKSTEP_SANITIZE}>,$<CXX_COMPILER_ID:GNU>>:-Wno-maybe-uninitialized>
  $<$<CXX_COMPILER_ID:GNU>:-Wno-stringop-overflow> $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
  # What one of the files has for itself looks like a header's there.
  $<$<AND:$<BOOL:${CMAKE_UNITY_BUILD}>,$<CXX_COMPILER_ID:GNU>>:-Wno-subobject-linkage>
  $<$<BOOL:${LOCKSTEP_WARNINGS_AS_ERRORS}>:-Werror>)

if(LOCKSTEP_SANITIZE STREQUAL "address")
  # Half the time of -O2 -g to compile what the sanitizers insert; reports still name functions and lines.
  add_compile_options($<$<CONFIG:RelWithDebInfo>:-O1> $<$<CONFIG:RelWithDebInfo>:-g1>)
  add_compile_options(-fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
  add_link_options(-fsanitize=address,undefined)
elseif(LOCKSTEP_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread -fno-omit-frame-pointer)
  add_link_options(-fsanitize=thread)
elseif(LOCKSTEP_SANITIZE STREQUAL "fuzzer")
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "LOCKSTEP_SANITIZE is fuzzer, which needs clang, but the compiler is ${CMAKE_CXX_COMPILER_ID}")
  endif()
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
  add_link_options(-fsanitize=address,undefined)
elseif(LOCKSTEP_SANITIZE)
  message(FATAL_ERROR "LOCKSTEP_SANITIZE is '${LOCKSTEP_SANITIZE}'; it must be address, thread, fuzzer or empty")
endif()

# The library is tested as people run it; what tests do beside that gains nothing from optimisation, which takes a third of
# the time to compile them.
set(LOCKSTEP_TEST_OPTIONS $<$<CONFIG:Release>:-O1>)
if(LOCKSTEP_SANITIZE STREQUAL "address")
  # Only when it optimises does GCC see that TORCH_CHECK(false) returns nothing.
  set(LOCKSTEP_TEST_OPTIONS $<$<CONFIG:RelWithDebInfo>:-O0> $<$<CONFIG:RelWithDebInfo>:-Wno-return-type>)
endif()

# lockstep_use_precompiled_torch(TARGET [TESTS]): programs share one precompiled torch/torch.h, and tests another one, with
# their options. It is made with -fPIC, so the program is compiled like that too, and not with -fPIE.
function(lockstep_use_precompiled_torch target)
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${target} PRIVATE -fPIC)
  if("TESTS" IN_LIST ARGN)
    target_compile_options(${target} PRIVATE ${LOCKSTEP_TEST_OPTIONS})
    target_precompile_headers(${target} REUSE_FROM lockstep_precompiled_torch_of_tests)
  else()
    target_precompile_headers(${target} REUSE_FROM lockstep_precompiled_torch)
  endif()
endfunction()
