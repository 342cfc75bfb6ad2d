"""Pull requests on GitHub, Gitea or Forgejo, and GitLab, over one small interface (`base.Forge`)."""
