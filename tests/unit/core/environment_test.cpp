// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/core/environment.h>
#include <lockstep/core/error.h>

#include <map>
#include <string>

namespace lockstep {
namespace {

using Variables = std::map<std::string, std::string>;

LaunchEnvironment detect(const Variables& variables) {
  return LaunchEnvironment::detect([&](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  });
}

const Variables kOpenMpi{{"OMPI_COMM_WORLD_RANK", "3"},
                         {"OMPI_COMM_WORLD_SIZE", "4"},
                         {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                         {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                         {"PMIX_NAMESPACE", "77"}};
const Variables kSlurm{{"SLURM_PROCID", "5"},  {"SLURM_NTASKS", "16"},
                       {"SLURM_LOCALID", "1"}, {"SLURM_STEP_NUM_TASKS", "11"},
                       {"SLURM_NODEID", "1"},  {"SLURM_STEP_TASKS_PER_NODE", "4(x2),3"},
                       {"SLURM_JOB_ID", "12"}, {"SLURM_STEP_ID", "0"}};

void expect(const LaunchEnvironment& environment, const std::string& launcher, int rank, int size,
            int local_rank, int local_size) {
  EXPECT_EQ(environment.launcher, launcher);
  EXPECT_EQ(environment.rank, rank);
  EXPECT_EQ(environment.world_size, size);
  EXPECT_EQ(environment.local_rank, local_rank);
  EXPECT_EQ(environment.local_size, local_size);
}

TEST(LaunchEnvironment, ReadsEveryLauncher) {
  expect(detect({}), "alone", 0, 1, 0, 1);
  expect(detect(kOpenMpi), "Open MPI", 3, 4, 1, 2);
  expect(detect({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}}), "MPICH", 1, 2, 1, 2);
  expect(detect({{"PMI_RANK", "3"},
                 {"PMI_SIZE", "4"},
                 {"MPI_LOCALRANKID", "1"},
                 {"MPI_LOCALNRANKS", "2"}}),
         "MPICH", 3, 4, 1, 2);
  expect(
      detect({{"RANK", "2"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "0"}, {"LOCAL_WORLD_SIZE", "2"}}),
      "torchrun", 2, 4, 0, 2);
  expect(detect(kSlurm), "Slurm", 5, 11, 1, 4);
  expect(detect({{"SLURM_PROCID", "1"}, {"SLURM_NTASKS", "2"}}), "Slurm", 1, 2, 1, 2);
}

TEST(LaunchEnvironment, MpirunInsideASlurmAllocationIsMpirun) {
  Variables both = kSlurm;
  both.insert(kOpenMpi.begin(), kOpenMpi.end());
  EXPECT_EQ(detect(both).launcher, "Open MPI");
}

TEST(LaunchEnvironment, JobsHaveIdsOfTheirOwn) {
  EXPECT_EQ(detect(kOpenMpi).job_id, "openmpi 77 ");
  EXPECT_EQ(detect(kSlurm).job_id, "slurm 12.0");
  Variables torchrun{
      {"RANK", "0"}, {"WORLD_SIZE", "1"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "1"}};
  const auto first = detect(torchrun).job_id;
  torchrun["MASTER_PORT"] = "2";
  EXPECT_NE(detect(torchrun).job_id, first);
  torchrun["LOCKSTEP_JOB_ID"] = "mine";
  EXPECT_EQ(detect(torchrun).job_id, "user mine");
}

void expect_error(const Variables& base, const std::string& name,
                  const std::optional<std::string>& value) {
  Variables variables = base;
  variables.erase(name);
  if (value) variables[name] = *value;
  try {
    static_cast<void>(detect(variables));
    ADD_FAILURE() << name << "=" << value.value_or("(not set)") << " was taken";
  } catch (const LaunchError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find(name), std::string::npos) << text;
    EXPECT_NE(text.find(value ? "is '" : "is not set"), std::string::npos) << text;
  }
}

TEST(LaunchEnvironment, NamesTheVariableThatIsWrong) {
  for (const std::string garbage :
       {"", "x", "-1", "1.5", "4", " 1", "1 ", "99999999999999999999", "0x1"}) {
    expect_error(kOpenMpi, "OMPI_COMM_WORLD_RANK", garbage);
  }
  for (const char* garbage : {"", "0", "-4", "four", "99999999"}) {
    expect_error(kOpenMpi, "OMPI_COMM_WORLD_SIZE", garbage);
  }
  expect_error(kOpenMpi, "OMPI_COMM_WORLD_RANK", std::nullopt);
  expect_error(kOpenMpi, "OMPI_COMM_WORLD_SIZE", std::nullopt);
  expect_error(kOpenMpi, "OMPI_COMM_WORLD_LOCAL_RANK", "2");
  expect_error(kOpenMpi, "OMPI_COMM_WORLD_LOCAL_SIZE", "5");
  expect_error({{"WORLD_SIZE", "2"}}, "RANK", std::nullopt);
  for (const char* garbage : {"x", "4(x", "4(x0)", "4(y2)", "4(x2", ",", "4(x1)"}) {
    expect_error(kSlurm, "SLURM_STEP_TASKS_PER_NODE", garbage);
  }
}

TEST(LaunchEnvironment, OneMachineCanPlaySeveralHosts) {
  Variables variables = kOpenMpi;  // rank 3 of 4
  variables["LOCKSTEP_PRETEND_HOSTS"] = "a,b,a,b";
  const auto environment = detect(variables);
  expect(environment, "Open MPI", 3, 4, 1, 2);
  EXPECT_EQ(environment.host, "b");
  variables["LOCKSTEP_PRETEND_HOSTS"] = "a,a,a,c";
  expect(detect(variables), "Open MPI", 3, 4, 0, 1);
  EXPECT_EQ(detect(kOpenMpi).host, "");
  for (const char* garbage : {"", "a,b,a", "a,b,a,b,a", "a,,b,b"}) {
    expect_error(kOpenMpi, "LOCKSTEP_PRETEND_HOSTS", garbage);
  }
}

}  // namespace
}  // namespace lockstep
