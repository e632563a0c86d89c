# DDP against PyTorch's own: a Python driver runs both and the C++ side compares. Skipped (77), not passed, where no
# Python can import the same torch.

if(EXISTS "${LibTorch_ROOT}/bin/python3")
  set(parity_python "${LibTorch_ROOT}/bin/python3")
else()
  set(parity_python "${Python3_EXECUTABLE}")
endif()

lockstep_test_program(ddp_python_parity_test
  SOURCES parity/comparison.cpp parity/graphs_test.cpp parity/nets.cpp parity/networks_test.cpp parity/optimizers.cpp
          parity/parity_run.cpp parity/steps_test.cpp parity/tensor_file.cpp parity/training_test.cpp
          "${PROJECT_SOURCE_DIR}/tests/support/rank_main.cpp")
foreach(ranks IN ITEMS 1 2 3)
  set(test ddp_python_parity_test.ranks_${ranks})
  if(parity_python)
    add_test(NAME ${test}
      COMMAND "${parity_python}" "${PROJECT_SOURCE_DIR}/tests/python/ddp_parity_driver.py"
        --ranks ${ranks} --torch-version ${LibTorch_VERSION}
        --mpirun "${PROJECT_SOURCE_DIR}/tests/support/mpirun.sh"
        --program $<TARGET_FILE:ddp_python_parity_test>)
  else()
    add_test(NAME ${test} COMMAND "${CMAKE_COMMAND}" -E echo "skipped: no Python interpreter")
    set_tests_properties(${test} PROPERTIES SKIP_REGULAR_EXPRESSION "^skipped")
  endif()
  _lockstep_test_properties(${test} 300 "multirank;python")
  set_tests_properties(${test} PROPERTIES SKIP_RETURN_CODE 77)
endforeach()
