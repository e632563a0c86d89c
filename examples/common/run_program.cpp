// SPDX-License-Identifier: BSD-3-Clause
#include "run_program.h"

#include "option_checks.h"
#include "report.h"

#include <c10/util/Exception.h>

#include <exception>
#include <iostream>

namespace example {

int run_program(CLI::App& app, int argc, char** argv, const std::function<void()>& body) {
  const auto ending = read_command_line(app, argc, argv);
  if (ending) {
    (ending->exit_code == 0 ? std::cout : std::cerr) << ending->text;
    return ending->exit_code;
  }
  try {
    body();
    return 0;
  } catch (const c10::Error& error) {
    report(app.get_name(), error.what_without_backtrace());
  } catch (const std::exception& error) {
    report(app.get_name(), error.what());
  }
  return 1;
}

}  // namespace example
