# DDP against PyTorch's own: a Python driver writes PyTorch's numbers, and the C++ side compares. Skipped (77), not passed,
# where no Python can import the same torch.

lockstep_test_program(ddp_python_parity_test
  SOURCES parity/comparison.cpp parity/graphs_test.cpp parity/nets.cpp parity/networks_test.cpp parity/optimizers.cpp
          parity/parity_run.cpp parity/steps_test.cpp parity/tensor_file.cpp parity/training_test.cpp
          "${PROJECT_SOURCE_DIR}/tests/support/rank_main.cpp")

# _lockstep_parity_test(NAME [DRIVER FILE] [COMMAND ...] LABELS ...): skipped where the driver says so, or where there is no Python.
function(_lockstep_parity_test name)
  cmake_parse_arguments(ARG "" "DRIVER" "COMMAND;LABELS" ${ARGN})
  if(NOT ARG_DRIVER)
    set(ARG_DRIVER ddp_parity_driver.py)
  endif()
  set(python "${LibTorch_ROOT}/bin/python3")
  if(NOT EXISTS "${python}")
    set(python "${Python3_EXECUTABLE}")
  endif()
  if(python)
    add_test(NAME ${name} COMMAND "${python}" "${PROJECT_SOURCE_DIR}/tests/python/${ARG_DRIVER}" ${ARG_COMMAND})
  else()
    add_test(NAME ${name} COMMAND "${CMAKE_COMMAND}" -E echo "skipped: no Python interpreter")
    set_tests_properties(${name} PROPERTIES SKIP_REGULAR_EXPRESSION "^skipped")
  endif()
  _lockstep_test_properties(${name} 300 "${ARG_LABELS};python")
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77)
endfunction()

# lockstep_add_parity_test(NAME RANKS COMMAND ... LABELS ...): a command that starts so many ranks of the C++ side, after
# PyTorch's numbers for as many ranks were written. All tests of as many ranks compare with the same numbers.
function(lockstep_add_parity_test name ranks)
  cmake_parse_arguments(ARG "" "" "COMMAND;LABELS" ${ARGN})
  _lockstep_parity_test(${name} COMMAND compare "${PROJECT_BINARY_DIR}/tests/multirank/pytorch_numbers_${ranks}" ${ARG_COMMAND}
                        LABELS ${ARG_LABELS})
  set_tests_properties(${name} PROPERTIES FIXTURES_REQUIRED pytorch_numbers_${ranks})
endfunction()

foreach(ranks IN ITEMS 1 2 3)
  _lockstep_parity_test(pytorch_numbers.ranks_${ranks}
    COMMAND train "${PROJECT_BINARY_DIR}/tests/multirank/pytorch_numbers_${ranks}" --ranks ${ranks}
            --torch-version ${LibTorch_VERSION}
    LABELS multirank)
  set_tests_properties(pytorch_numbers.ranks_${ranks} PROPERTIES FIXTURES_SETUP pytorch_numbers_${ranks})
  lockstep_add_parity_test(ddp_python_parity_test.ranks_${ranks} ${ranks}
    COMMAND "${PROJECT_SOURCE_DIR}/tests/support/mpirun.sh" ${ranks} $<TARGET_FILE:ddp_python_parity_test>
            --expected-world-size ${ranks}
    LABELS multirank)
endforeach()
