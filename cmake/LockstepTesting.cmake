# How tests are declared. Every test has a time limit, and those with the longest limits start first, so that none of them
# is left over at the end. Each takes one core, also with several ranks: these wait for one another most of the time (four
# ranks of collectives_test keep less than one core busy).

find_package(GTest REQUIRED)
find_package(Python3 QUIET COMPONENTS Interpreter)
# The Python of the LibTorch that is linked, where there is one: what tests compare with.
find_program(LOCKSTEP_TORCH_PYTHON python3 HINTS "${LibTorch_ROOT}/bin" "$ENV{LibTorch_ROOT}/bin" NO_DEFAULT_PATH)
mark_as_advanced(LOCKSTEP_TORCH_PYTHON)

set(LOCKSTEP_TEST_ENVIRONMENT OMP_NUM_THREADS=1 LOCKSTEP_LOG_LEVEL=warning)
if(LOCKSTEP_SANITIZE STREQUAL "address")
  # Open MPI and LibTorch leak at exit by design; the leaks that tests look for (processes, shared memory, descriptors)
  # have checks of their own. An allocation that no machine can serve fails as it does without the sanitizer: tests ask.
  list(APPEND LOCKSTEP_TEST_ENVIRONMENT ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0:allocator_may_return_null=1
       UBSAN_OPTIONS=print_stacktrace=1)
elseif(LOCKSTEP_SANITIZE STREQUAL "thread")
  list(APPEND LOCKSTEP_TEST_ENVIRONMENT TSAN_OPTIONS=halt_on_error=1)
endif()

# lockstep_test_program(NAME [PLAIN] SOURCES ... [LIBRARIES ...]): a gtest program over the library's internals. PLAIN is for
# what includes next to nothing of torch: there the precompiled torch/torch.h costs more seconds than it saves.
function(lockstep_test_program name)
  cmake_parse_arguments(ARG "PLAIN" "" "SOURCES;LIBRARIES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  target_link_libraries(${name} PRIVATE lockstep_internals GTest::gtest lockstep_warnings ${ARG_LIBRARIES})
  if(ARG_PLAIN)
    target_compile_options(${name} PRIVATE ${LOCKSTEP_TEST_OPTIONS})
  else()
    lockstep_use_precompiled_torch(${name} TESTS)
  endif()
endfunction()

function(_lockstep_test_properties name timeout labels)
  set_tests_properties(${name} PROPERTIES TIMEOUT ${timeout} COST ${timeout} LABELS "${labels}"
                       ENVIRONMENT "${LOCKSTEP_TEST_ENVIRONMENT}")
endfunction()

# lockstep_add_unit_test(NAME [PLAIN] SOURCES ... [TIMEOUT s] [LABELS ...] [SHARDS n]): one process. With SHARDS, as many entries
# NAME.shard_K, each with a part of the program's tests, so that they run side by side.
function(lockstep_add_unit_test name)
  cmake_parse_arguments(ARG "PLAIN" "TIMEOUT;SHARDS" "SOURCES;LIBRARIES;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  set(plain)
  if(ARG_PLAIN)
    set(plain PLAIN)
  endif()
  lockstep_test_program(${name} ${plain} SOURCES ${ARG_SOURCES} LIBRARIES ${ARG_LIBRARIES} GTest::gtest_main)
  if(NOT ARG_SHARDS)
    add_test(NAME ${name} COMMAND ${name})
    _lockstep_test_properties(${name} ${ARG_TIMEOUT} "unit;${ARG_LABELS}")
    return()
  endif()
  math(EXPR last "${ARG_SHARDS} - 1")
  foreach(shard RANGE ${last})
    add_test(NAME ${name}.shard_${shard} COMMAND ${name})
    _lockstep_test_properties(${name}.shard_${shard} ${ARG_TIMEOUT} "unit;${ARG_LABELS}")
    set_property(TEST ${name}.shard_${shard} APPEND PROPERTY
                 ENVIRONMENT GTEST_TOTAL_SHARDS=${ARG_SHARDS} GTEST_SHARD_INDEX=${shard})
  endforeach()
endfunction()

# lockstep_add_rank_test(NAME SOURCES ... RANKS 1 2 3 [ARGS ...] [TIMEOUT s] [LABELS ...]): a gtest program with
# tests/support/rank_main.cpp, started by mpirun once for each number of ranks. rank_main fails when the world has
# another size than it was asked for.
function(lockstep_add_rank_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;RANKS;LABELS;LIBRARIES" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  lockstep_test_program(${name} SOURCES ${ARG_SOURCES} "${PROJECT_SOURCE_DIR}/tests/support/rank_main.cpp"
                        LIBRARIES ${ARG_LIBRARIES})
  foreach(ranks IN LISTS ARG_RANKS)
    add_test(NAME ${name}.ranks_${ranks}
             COMMAND "${PROJECT_SOURCE_DIR}/tests/support/mpirun.sh" ${ranks} $<TARGET_FILE:${name}> --expected-world-size ${ranks})
    _lockstep_test_properties(${name}.ranks_${ranks} ${ARG_TIMEOUT} "multirank;${ARG_LABELS}")
  endforeach()
endfunction()

# lockstep_add_python_test(NAME SCRIPT FILE [ARGUMENTS ...] [TIMEOUT s] [LABELS ...]): a script that compares with Python's torch
# or packages, which tools/setup.sh installs; it skips itself (77) where one is missing. No entry where LibTorch has no Python,
# and none under sanitizers.
function(lockstep_add_python_test name)
  cmake_parse_arguments(ARG "" "SCRIPT;TIMEOUT" "ARGUMENTS;LABELS" ${ARGN})
  if(NOT LOCKSTEP_TORCH_PYTHON OR LOCKSTEP_SANITIZE)
    return()
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 240)
  endif()
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  add_test(NAME ${name} COMMAND "${LOCKSTEP_TORCH_PYTHON}" "${ARG_SCRIPT}" ${ARG_ARGUMENTS} COMMAND_EXPAND_LISTS)
  _lockstep_test_properties(${name} ${ARG_TIMEOUT} "${ARG_LABELS};python")
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77)
endfunction()
