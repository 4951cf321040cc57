# The commands of the README by name.  The work is done by the scripts in .ci, which run without make as well.

.PHONY: help demo docs test

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST)

demo: ## set up what is missing, mount /usr copy-on-write at demo/mnt and show what happens
	@bash .ci/demo

docs: ## set up what is missing, then make the manual: build/docs/index.html, and man pages in build/man
	@bash .ci/docs

test: ## set up what is missing, then check everything: style, types, all tests
	@bash .ci/test
